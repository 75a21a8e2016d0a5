"""What one endpoint serves: the model that it was started for, and the parts of a combination beside it."""

from __future__ import annotations

from pathlib import Path

from touchstone.errors import ServingError
from touchstone.model import optimisation_budget
from touchstone.model.reference import Reference, read_reference
from touchstone.serving.batching import Batcher
from touchstone.serving.combination import PARTS, Combination
from touchstone.serving.live import Live
from touchstone.serving.origins import Folder, Versions
from touchstone.settings import Settings


def open_models(
    root: Path,
    settings: Settings,
    batcher: Batcher | None = None,
    *,
    name: str | None = None,
    model: str | None = None,
) -> tuple[Live, Combination | None]:
    """Load what is to be served. The registry is opened where something comes from it.

    Args:
        root: the project's root: where the registry is, and where relative folders count from.
        batcher: the queue of what is served.
        name: the registered model, or what a folder's model is called.
        model: as `read_reference` takes it. With neither, requests that name no model get the combination, where one
            is set, and otherwise `settings.name`.

    Returns:
        What nameless requests get (a combination's first part, if they get the combination), and the combination. A
        model that is asked for twice is in memory once.

    Raises:
        ServingError: nothing can be served, or two things would answer to one name.
        SettingsError: what is named is no model.
        RegistryError: the registry can't be opened.
    """
    # What is asked for?
    rule = settings.serve.combination
    parts = [] if rule is None else [read_reference(getattr(rule, part), root) for part in PARTS]
    asked = read_reference(model, root, name) if model is not None else None if name is None else Reference(name)
    first = asked or (parts[0] if parts else Reference(settings.name))
    references = list(dict.fromkeys([first, *parts]))
    names = [*(reference.name for reference in references), *([] if rule is None else [rule.name])]
    if twice := sorted({each for each in names if names.count(each) > 1}):
        raise ServingError(
            f"two models would answer to {', '.join(twice)}; a folder is renamed by --name, a combination by "
            "serve.combination.name"
        )

    # Load it.
    registry = _registry(root) if any(reference.folder is None for reference in references) else None
    lives = {reference: _live(reference, registry, settings, root, batcher) for reference in references}
    for live in lives.values():
        live.open()
    if rule is None:
        return lives[first], None
    return lives[first], Combination(rule, lives[parts[0]], lives[parts[1]], nameless=asked is None)


def _registry(root: Path) -> Versions:
    from touchstone.registry import Registry  # seconds of imports that a folder doesn't need

    return Registry.open(root)


def _live(
    reference: Reference, registry: Versions | None, settings: Settings, root: Path, batcher: Batcher | None
) -> Live:
    budgets = optimisation_budget.folder_of(root / "runs")
    versions = registry if reference.folder is None else Folder(reference.folder, budgets)
    assert versions is not None  # noqa: S101 - for the type checker: the caller opened it
    shadow = settings.serve.shadow
    return Live(
        versions,
        reference.name,
        which=reference.which,
        tokens_per_batch=settings.serve.tokens_per_batch,
        prefix_cache_mib=settings.serve.prefix_cache_mib,
        keep_previous=settings.serve.keep_previous,
        shadow=None if shadow is None else shadow.alias,
        batcher=batcher,
    )
