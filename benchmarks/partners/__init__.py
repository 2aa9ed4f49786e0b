"""Tasks with hidden partners and the agents for them; importing it makes them known by name."""

from pathlib import Path

from partners.agents import make_agent_modelling, make_ppo
from partners.held_out import HeldOutHook
from partners.tasks import check_partners, make_partners
from torchrl_moawm.train.algorithms.make import ALGORITHMS
from torchrl_moawm.train.settings.places import use_config_dir
from torchrl_moawm.train.tasks.environment import SUITES, Suite

SUITES["partners"] = Suite(make_partners, check_partners, evaluation=HeldOutHook)
ALGORITHMS |= {"ppo": make_ppo, "agent_modelling": make_agent_modelling}
use_config_dir(Path(__file__).parents[1] / "conf")
