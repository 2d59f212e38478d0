"""Static INT8 quantization: the step, its ranges, and the forms it writes."""
