"""The journals' tests."""

import pytest

# pytest rewrites the asserts of test modules only; the suite lives in a module that is inherited from.
pytest.register_assert_rewrite("tests.journal.conformance")
