"""Tables come back from CSV as they were, whatever layers are called."""

import numpy as np
import pandas as pd
import pytest
from synthetic import planted_results, with_layer_names

import ioca_jax as ioca

NAMES = (
    "0",
    "null",
    "NA",
    "True",
    "1e5",
    "",
    " a,b ",
    "nan",
    "inf",
    'x"y',
    "line\nend",
)


def reread(table, folder):
    table.to_csv(folder / "table.csv", index=False)
    return ioca.load_table(folder / "table.csv")


@pytest.mark.parametrize("names", [("null", "1e5"), ("NA", "0")])
def test_orders_of_layers_with_such_names_come_back(names, tmp_path):
    results = with_layer_names(planted_results(seeds=3), names)
    orders = ioca.compare_orders(results)
    assert set(orders["scope"]) == {*names, "network"}
    found = reread(orders, tmp_path)
    pd.testing.assert_frame_equal(found, orders, check_exact=True)


def test_names_are_text_and_other_columns_are_values(tmp_path):
    number = len(NAMES)
    table = pd.DataFrame(
        {
            "layer": NAMES,
            "neurons": range(number),
            "low": [np.nan, 0.1, *[1e-300 / 3] * (number - 2)],
            "holds": [True, *[False] * (number - 1)],
            "of_caller": ["text", *["2"] * (number - 1)],
        }
    )
    found = reread(table, tmp_path)
    pd.testing.assert_frame_equal(found, table, check_exact=True)
    assert found["layer"].tolist() == list(NAMES)
    numbered = pd.DataFrame({"layer": [1, 2], "neurons": [3, 4]})
    assert reread(numbered, tmp_path)["layer"].tolist() == ["1", "2"]


def test_what_is_no_table_is_refused_in_one_line(tmp_path):
    path = tmp_path / "table.csv"
    with pytest.raises(FileNotFoundError) as missing:
        ioca.load_table(path)
    assert str(missing.value) == f"expected a table (CSV) at {path}, found none"
    for content, reason in (
        (b"", "No columns to parse from file"),
        (b"a\n1,2\n1,2,3\n", "Error tokenizing data. C error: Expected 2 fields in "
         "line 3, saw 3"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(ValueError, match=".") as caught:
            ioca.load_table(path)
        assert str(caught.value) == (
            f"{path}: expected a table (CSV), got a file that cannot be read ({reason})"
        )
