"""One file per claim; benchmarks, which are never part of the tests."""
