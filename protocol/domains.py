"""A run with domains: the manifest of each sub-swarm.

Each domain is trained by a sub-swarm of the run. Its manifest is a function of the run's, so nobody
has to sign it: whoever has checked the run's has checked it, too.
"""

from protocol.errors import ConfigError
from protocol.manifest import DomainSpec, ExpertsSpec, Manifest


def domain_named(manifest: Manifest, name: str) -> DomainSpec:
    """Returns a domain of the run.

    Raises:
        ConfigError: there is none of that name.
    """
    for domain in manifest.domains:
        if domain.name == name:
            return domain
    names = ", ".join(domain.name for domain in manifest.domains)
    raise ConfigError(
        f"the run has no domain {name!r}; it has {names}" if names else "the run has no domains"
    )


def domain_manifest(manifest: Manifest, name: str) -> Manifest:
    """Returns what the sub-swarm of a domain agrees on: a manifest without domains.

    Its run id is its own, so that seeds and lots differ from those of all other domains.

    Raises:
        ConfigError: there is no domain of that name.
    """
    domain = domain_named(manifest, name)
    return manifest.model_copy(
        update={
            "name": f"{manifest.run_id[:12]} {name}",
            "model": domain.model,
            "data": domain.data,
            "inner": domain.inner,
            "method": domain.method,
            "domains": [],
            "experts": ExpertsSpec(),
        }
    )
