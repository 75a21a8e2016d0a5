# What type checkers read in place of __init__.py, which finds the same names when they are asked for.
from touchstone.client import AsyncClient as AsyncClient
from touchstone.client import Client as Client
from touchstone.client import reward_function as reward_function
from touchstone.data.group_files import read_groups as read_groups
from touchstone.data.group_files import write_groups as write_groups
from touchstone.errors import TouchstoneError as TouchstoneError
from touchstone.groups import Comparison as Comparison
from touchstone.groups import Completion as Completion
from touchstone.groups import Group as Group
from touchstone.groups import Message as Message
from touchstone.groups import make_group as make_group
from touchstone.model.offline import Preference as Preference
from touchstone.model.offline import compare as compare
from touchstone.model.offline import load as load
from touchstone.model.offline import rank as rank
from touchstone.model.offline import score as score
from touchstone.model.scores import Ranked as Ranked
from touchstone.model.scores import Score as Score
from touchstone.model.scoring import Scorer as Scorer

__version__: str
