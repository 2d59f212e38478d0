"""Tests of onnxlite; a package so that test files can share `odd_models`."""
