"""Which objectives can be asked for."""

import pytest

from vaejax import rules
from vaejax.config import Config, Objective

pytestmark = pytest.mark.usefixtures("no_rank_promotion")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"likelihood": "gausian"}, "objective.likelihood='gausian' is none of: gaussian, laplace"),
        ({"prior": "vamp"}, "is none of: standard, mixture, vampprior, hierarchical"),
        ({"schedule": "cyclical"}, "needs a rise within each cycle"),
        ({"bound": "iwae", "regularizer": "tc"}, "has no room for objective.regularizer=tc"),
        ({"bound": "iwae", "mel_weight": 9.0}, "has no room for objective.mel_weight=9.0"),
        ({"bound": "dreg", "prior": "hierarchical"}, "take iwae"),
        ({"regularizer": "tc", "posterior": "flow"}, "take gaussian"),
        ({"likelihood": "student_t", "sigma": "optimal"}, "take shared"),
        ({"likelihood": "multi_resolution_stft", "sigma": "per_bin"}, "objective.sigma=shared"),
        ({"prior": "hierarchical", "top_dim": 65}, "at most the 64 dimensions"),
        ({"num_draws": 0}, "objective.num_draws=0 must be greater than 0"),
    ],
)
def test_objectives_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        rules.check(Config(objective=Objective(**fields)))
