"""The configuration of a decoder whose reward is not what its head says at the last token.

Such a checkpoint's weights are those of transformers' own sequence classifier, which would read them at the last token
and give another reward without a word. The model type that `config.json` names is therefore ours alone:
`AutoModelForSequenceClassification`, vLLM and whatever else goes by that type refuse the folder. The classifier's own
configuration lies whole under `backbone`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.configuration_utils import SubConfigSpec


class TokenwiseConfig(PretrainedConfig):
    """What `config.json` of such a folder says; the classifier's own configuration is `backbone`."""

    model_type = "touchstone_tokenwise"
    sub_configs_defaults = {"backbone": SubConfigSpec(config_class=AutoConfig, model_type="qwen3")}  # noqa: RUF012

    backbone: dict[str, Any] | PretrainedConfig | None = None

    def plain(self) -> Any:
        """The classifier's own configuration, with one label."""
        config: Any = self.backbone
        config.num_labels = 1
        return config


AutoConfig.register(TokenwiseConfig.model_type, TokenwiseConfig, exist_ok=True)

_KEPT = ("touchstone_max_tokens", "touchstone_origin", "dtype", "transformers_version")
"""What loaders look for at the top."""


def wrapped(config: Mapping[str, Any]) -> dict[str, Any]:
    """A classifier's config.json as one that stock loaders refuse."""
    top = {name: config[name] for name in _KEPT if name in config}
    return {
        **top,
        "architectures": ["TouchstoneTokenwiseRewardModel"],
        "backbone": dict(config),
        "model_type": TokenwiseConfig.model_type,
    }
