"""Dividing a run's compute among its domains: text is read, compared and measured, then shared."""

from collections.abc import Callable, Iterable, Mapping

from peer.experts.overlap import check_overlap
from peer.experts.probe import difficulty_of
from peer.experts.undivided import Undivided, domains_of
from peer.train.data import Corpus, load_text, with_validation
from protocol.errors import ConfigError
from protocol.manifest import MAX_MANIFEST_BYTES, Manifest

OnProgress = Callable[[str], None]
"""Called with what is being done, in a few words."""


def divided(found: Undivided, on_progress: OnProgress = lambda words: None) -> Manifest:
    """Return the manifest of a run whose domains have their models, budgets and validation texts.

    Args:
        found: The run's domains. Those whose difficulty the division needs are measured.
        on_progress: See `OnProgress`.

    Raises:
        ConfigError: a domain has no text, or two have the same; or a share cannot be had.
        ThinwireError: a probe's loss is not finite.
    """
    corpora = read_texts(found, on_progress)
    unknown = found.unknown(found.manifest.experts.division)
    probed = difficulties(found, corpora, unknown, on_progress)
    domains = [
        domain.model_copy(update={"data": with_validation(domain.data, corpora[domain.name])})
        for domain in domains_of(found, probed)
    ]
    manifest = found.manifest.model_copy(update={"domains": domains})
    size = len(manifest.to_bytes())
    if size > MAX_MANIFEST_BYTES:
        raise ConfigError(
            f"the run's manifest has {size} bytes, of at most {MAX_MANIFEST_BYTES}; use fewer "
            "domains, or shorter recipes"
        )
    return manifest


def difficulties(
    found: Undivided,
    corpora: Mapping[str, Corpus],
    names: Iterable[str],
    on_progress: OnProgress = lambda words: None,
) -> dict[str, float]:
    """Return the difficulties of some domains as a probe measures them.

    Args:
        found: The run's domains.
        corpora: Their texts.
        names: Of the domains to measure.
        on_progress: See `OnProgress`.

    Raises:
        ThinwireError: a probe's loss is not finite.
    """
    manifest, probed = found.manifest, {}
    for name in names:
        on_progress(f"measuring how difficult {name} is, {found.probe_steps} steps")
        probed[name] = difficulty_of(
            corpora[name],
            manifest.transformer,
            manifest.inner,
            steps=found.probe_steps,
            seed=manifest.seed,
        )
    return probed


def read_texts(found: Undivided, on_progress: OnProgress = lambda words: None) -> dict[str, Corpus]:
    """Return the text of each domain; no text is in two of them, seeds aside.

    Raises:
        ConfigError: names the domain that has none, or the two that share some.
    """
    corpora = {}
    for draft in found.drafts:
        name, data = draft.spec.name, draft.spec.data
        on_progress(f"reading the text of {name}")
        try:
            corpora[name] = load_text(data.recipe, data.validation_frac)
        except ConfigError as error:
            raise ConfigError(f"domain {name}: {error}") from None
    on_progress("looking for text that two domains share")
    experts = [draft.spec.name for draft in found.drafts if draft.spec.is_expert]
    check_overlap({name: corpora[name] for name in experts})
    return corpora
