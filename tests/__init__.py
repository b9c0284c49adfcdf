"""The test suite; a package, so that its oracle and helpers can be shared."""
