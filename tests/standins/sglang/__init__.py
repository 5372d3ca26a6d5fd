"""Stands in for SGLang where a test is about how it is started."""
