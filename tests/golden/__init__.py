"""Golden hashes: what every step makes of nets of many kinds, held fixed across refactorings."""
