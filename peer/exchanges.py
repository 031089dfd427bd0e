"""Which exchange machine serves which mixing."""

from protocol.circle_exchange import CircleExchange
from protocol.exchange import Exchange, ExchangeConfig
from protocol.group_exchange import GroupExchange
from protocol.pair_exchange import PairExchange

_MACHINES: dict[str, type[Exchange]] = {
    "all": GroupExchange,
    "pairs": PairExchange,
    "groups": CircleExchange,
}


def new_exchange(
    mixing: str, config: ExchangeConfig, *, round: int, anchor_digest: bytes
) -> Exchange:
    """Returns a new machine for one fragment, at this round."""
    return _MACHINES[mixing](config, round=round, anchor_digest=anchor_digest)
