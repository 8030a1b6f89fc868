"""Helpers that start and disturb what the tests run against."""
