"""The names that the command line has are those of the tables, and of nothing else."""

import importlib
import re
from pathlib import Path

import pytest

from vaejax import config as configs
from vaejax import rules, tables
from vaejax.config import Config

TABLES = re.findall(r'one_of\("(.+?)"\)', Path(configs.__file__).read_text())


def test_every_kind_of_alternative_has_a_table():
    kinds = {"likelihoods", "scales", "priors", "posteriors", "regularizers", "bounds", "schedules"}
    assert {f"objective/{kind}.py" for kind in kinds} <= {name.split(":")[0] for name in TABLES}
    assert len(set(TABLES)) == len(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_names_read_off_the_source_are_those_of_the_table(name):
    path, table = name.split(":")
    module = importlib.import_module(f"vaejax.{path[:-3].replace('/', '.')}")
    assert tables.names_in(name) == tuple(getattr(module, table))


def test_a_name_of_no_table_is_refused_with_the_known_ones():
    for section, field in (("train", "optimizer"), ("model", "block"), ("features", "kind")):
        config = configs.replaced(Config(), {f"{section}.{field}": "nothing"})
        with pytest.raises(ValueError, match=rf"{section}.{field}='nothing' is none of: \w+"):
            rules.check(config)
