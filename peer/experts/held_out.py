"""Text to judge experts by: what none was trained on, in two parts that share no byte.

The first quarter is for whoever wants to fit something, such as a prior; the rest is the test. The
cut is the same whether or not anything is fitted, so that figures compare. (The released code of
HDEE estimates its prior on the very text that it then tests on.)
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from peer.experts.folder import ModelFolder
from peer.train.data import Corpus, Text, check_validation, load_text
from protocol.errors import ConfigError
from protocol.manifest import DataSpec

PRIOR_FRAC = 0.25
"""Of the text; also the bytes read to estimate a prior, for each byte tested."""
_UNSEEN_FRAC = 0.45
"""Of a text that nobody was trained on, as all of it could be validation."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """The held-out text of one domain.

    Attributes:
        name: Of the domain.
        recipe: Where the text is from.
        for_prior: The part to fit on.
        for_test: The part to test on.
        is_unseen: Whether no expert here is of this domain.
    """

    name: str
    recipe: str
    for_prior: Text
    for_test: Text
    is_unseen: bool


def cut(text: Text) -> tuple[Text, Text]:
    """Returns the part of a held-out text to fit on, and the part to test on."""
    place = int(len(text) * PRIOR_FRAC)
    return text[:place], text[place:]


def held_out_texts(
    models: ModelFolder, domains: Collection[str] | None, unseen: Mapping[str, str]
) -> tuple[list[HeldOut], list[str]]:
    """Returns the texts by which to judge the models, and what the operator should know of them.

    Args:
        models: Whose domains have recipes.
        domains: Of those only these; None: all.
        unseen: By name, recipes of further texts.

    Raises:
        ConfigError: there is no such domain, its text is not here, or two texts overlap: unseen
            ones also with domains that are not among these.
    """
    specs = _specs(models, domains, unseen)
    if not specs:
        raise ConfigError(
            f"nobody knows what the experts in {models.path} were trained on; "
            "give texts with --text NAME=RECIPE"
        )
    corpora, notices = {}, []
    for name, spec in specs.items():
        corpora[name] = _load(name, spec)
        problem = check_validation(corpora[name], spec)
        notices += [f"{name}: {problem}"] if problem else []
    read = dict(corpora)
    for name, spec in models.texts.items() if unseen else ():
        if name not in specs:
            try:
                read[name] = _load(name, spec)
            except ConfigError as error:
                notices.append(f"{error}, so nobody knows whether it shares text with --text")
    if len(read) > 1:
        from peer.experts.overlap import check_overlap

        check_overlap(read)
    known = {expert.name for expert in models.experts}
    texts = [
        HeldOut(name, spec.recipe, *cut(corpora[name].validation), is_unseen=name not in known)
        for name, spec in specs.items()
    ]
    return texts, notices


def _specs(
    models: ModelFolder, domains: Collection[str] | None, unseen: Mapping[str, str]
) -> dict[str, DataSpec]:
    """Returns by name where the texts are from, those of experts that are here first."""
    known = [expert.name for expert in models.experts]
    names = sorted(models.texts, key=lambda name: name not in known)
    for name in domains or ():
        if name not in models.texts:
            raise ConfigError(
                f"--domains: there is no domain {name!r}; there are {', '.join(names)}"
            )
    specs = {name: models.texts[name] for name in names if domains is None or name in domains}
    for name, recipe in unseen.items():
        if name in models.texts:
            raise ConfigError(f"--text {name}={recipe}: {name} is a domain; choose another name")
        for domain, spec in models.texts.items():
            if recipe == spec.recipe:
                raise ConfigError(
                    f"--text {name}={recipe}: that is the text of domain {domain}; give one that "
                    "no expert was trained on"
                )
        specs[name] = DataSpec(recipe=recipe, validation_frac=_UNSEEN_FRAC)
    return specs


def _load(name: str, spec: DataSpec) -> Corpus:
    try:
        return load_text(spec.recipe, spec.validation_frac)
    except ConfigError as error:
        raise ConfigError(f"the text of {name}: {error}") from None
