"""Readers and writers of foreign formats: one file for each."""
