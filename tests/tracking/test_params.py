from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from geovq.errors import InputError
from geovq.tracking.params import MAX_VALUE_LENGTH, batches, checked_name, flatten

names = st.text("abcxyz_0", min_size=1, max_size=6)
whole = st.none() | st.booleans() | st.integers()
scalars = whole | st.floats(allow_nan=False, allow_infinity=False)
configs = st.recursive(
    st.dictionaries(names, scalars | st.lists(whole, max_size=3), max_size=4),
    lambda inner: st.dictionaries(names, inner | scalars, max_size=4),
    max_leaves=12,
)


def test_nested_config_becomes_dotted_names_in_order():
    config = {
        "seed": 0,
        "vae": {"grid": [4, 4], "loss": "mse", "warmup": {"on": True}},
        "debug": None,
        "empty": {},
    }
    assert list(flatten(config).items()) == [
        ("seed", "0"),
        ("vae.grid", "[4, 4]"),
        ("vae.loss", "mse"),
        ("vae.warmup.on", "true"),
        ("debug", "null"),
        ("empty", "{}"),
    ]


@given(configs)
def test_every_leaf_is_kept_and_reads_back_as_yaml(config):
    params = flatten(config)
    for name, text in params.items():
        node = config
        for part in name.split("."):
            node = node[part]
        # YAML wants a dot in 1e+16 where Python writes none.
        assert (float(text) if isinstance(node, float) else yaml.safe_load(text)) == node

    def count(node):
        return sum(map(count, node.values())) if isinstance(node, dict) and node else 1

    assert len(params) == (count(config) if config else 0)


def test_long_value_is_cut_visibly_at_the_limit():
    short, long = flatten({"short": "a" * MAX_VALUE_LENGTH, "long": "b" * 7000}).values()
    assert short == "a" * 6000
    assert len(long) == 6000
    assert long.startswith("bbb")
    assert long.endswith("b ... [cut, 7000 characters in all]")


@pytest.mark.parametrize("name", ["psnr", "vae/train loss", "a.b-c_d", "prior/bits_per_image", "größe"])
def test_legal_names_pass_unchanged(name):
    assert checked_name(name, "metric") == name


@pytest.mark.parametrize("name", ["", "a:b", "psnr@10", "a\nb", "a=b", "/a", "../a", "a//b", "a/./b", ".", "x" * 251])
def test_illegal_names_are_refused_with_the_name(name):
    with pytest.raises(InputError, match="metric name") as caught:
        checked_name(name, "metric")
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(), max_size=30), st.integers(1, 7))
def test_batches_keep_order_and_size(items, size):
    parts = batches(items, size)
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
    assert all(0 < len(part) <= size for part in parts)
