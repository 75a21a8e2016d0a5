"""A checkpoint whose rewards count without what they gain by length alone.

The slope of the reward in log(1 + tokens) is fitted when the model is sealed, and stands in the scoring rule. The
weights are those of the plain checkpoint, which stock loaders would score without the subtraction and without a word.
The model type that `config.json` names is therefore ours alone, with the plain configuration inside: whatever goes by
the type refuses the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.configuration_utils import SubConfigSpec

from touchstone.runtime.files import write_json

ARCHITECTURE = "TouchstoneLengthFreeRewardModel"


class LengthFreeConfig(PretrainedConfig):
    """The configuration of a checkpoint whose rewards lose `length_slope` times log(1 + tokens of the completion).

    Attributes:
        length_floor: the fewest tokens that are counted.
    """

    model_type = "touchstone_length_free"
    sub_configs_defaults = {"network": SubConfigSpec(config_class=AutoConfig, model_type="qwen3")}  # noqa: RUF012

    network: dict[str, Any] | PretrainedConfig | None = None
    length_slope: float = 0.0
    length_floor: int = 0


AutoConfig.register(LengthFreeConfig.model_type, LengthFreeConfig, exist_ok=True)


def unwrapped(config: PretrainedConfig) -> tuple[PretrainedConfig, float | None, int]:
    """The configuration of the network that a checkpoint holds, the slope that its rewards lose (None: nothing), and
    the fewest tokens that are counted."""
    if not isinstance(config, LengthFreeConfig):
        return config, None, 0
    network: Any = config.network
    return network, config.length_slope, config.length_floor


def wrap(folder: Path, slope: float, floor: int) -> None:
    """Name in a plain checkpoint's `config.json` slope and floor of what its rewards lose, so that only we load it."""
    path = folder / "config.json"
    plain = json.loads(path.read_text(encoding="utf-8"))
    # What a reader of config.json looks for without loading the model stays where it was.
    ours = {name: value for name, value in plain.items() if name.startswith("touchstone_")}
    wrapper = {"architectures": [ARCHITECTURE], "model_type": LengthFreeConfig.model_type}
    write_json(path, {**ours, **wrapper, "length_slope": slope, "length_floor": floor, "network": plain})
