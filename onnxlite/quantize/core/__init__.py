"""A float model, a placement and ranges become a QDQ model: types, targets, scales, emitter."""
