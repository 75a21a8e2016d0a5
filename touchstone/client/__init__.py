"""A client of the endpoint's native protocol. It needs httpx and nothing of the model or the server.

with Client("http://127.0.0.1:8100") as client:
    client.rewards([("2+2?", ["4", "5"])]).scores
    client.rank("2+2?", ["4", "5", "22"], best=1).ranking[0].index

async with AsyncClient("http://127.0.0.1:8100") as client:     # the same calls, awaited
    await client.compare("2+2?", "4", "5")

GRPOTrainer(..., reward_funcs=reward_function("http://127.0.0.1:8100"))
"""

from touchstone.client.clients import AsyncClient, Client
from touchstone.client.replies import (
    ChainReply,
    ComparisonReply,
    RankedReply,
    RankingReply,
    Reply,
    ScoreReply,
    StepReply,
    StepsReply,
)
from touchstone.client.reward_function import reward_function

__all__ = [
    "AsyncClient",
    "ChainReply",
    "Client",
    "ComparisonReply",
    "RankedReply",
    "RankingReply",
    "Reply",
    "ScoreReply",
    "StepReply",
    "StepsReply",
    "reward_function",
]
