"""The contract suites: a technique or target that was written outside can prove itself."""
