"""Arrays that we encode arrive at PostgreSQL as the lists that they were made from."""

import psycopg
import pytest
from edgeexit_calibration.store.binary_array import binary_array
from edgeexit_calibration.store.limited_connection import LimitedConnection
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.postgres import postgres

VALUES = {
    "INTEGER": st.none() | st.integers(-(2**31), 2**31 - 1),
    "BIGINT": st.integers(-(2**63), 2**63 - 1),
    "DOUBLE PRECISION": st.none() | st.floats(allow_nan=False),
    "TEXT": st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))),
    "BYTEA": st.none() | st.binary(),
    "BOOLEAN": st.booleans(),
}


@pytest.fixture(scope="module")
def connection():
    with LimitedConnection.connect(postgres().create()) as opened:
        yield opened


@pytest.mark.parametrize("type_name", VALUES)
@settings(max_examples=25)
@given(data=st.data())
def test_an_array_is_received_as_it_was(connection, type_name, data):
    values = data.draw(st.lists(VALUES[type_name], min_size=1, max_size=50))
    (received,) = connection.execute(f"SELECT %b::{type_name}[]", (binary_array(type_name, values),)).fetchone()
    assert received == values


def test_a_number_that_the_type_cannot_hold_is_an_error():
    with pytest.raises(OverflowError):
        binary_array("INTEGER", [2**31])


def test_a_cast_to_another_type_is_an_error(connection):
    with pytest.raises(psycopg.Error):
        connection.execute("SELECT %b::bigint[]", (binary_array("TEXT", ["1"]),))
    connection.rollback()
