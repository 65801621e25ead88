"""`/balance`: what the account can spend."""

from __future__ import annotations

from pydantic import Field
from starlette.responses import Response

from api.call import Call
from api.models import Answer, Micros, Usd
from api.routing import BASE, NoQuery, operation
from billing.wallets import balance
from core.money import usd


class BalanceAnswer(Answer):
    """The wallet of the account."""

    balance_usd: Usd = Field(description="What the account owns: available and held, less what it owes.")
    balance_micros: Micros
    held_usd: Usd = Field(description="Set aside for jobs that have not ended.")
    available_usd: Usd = Field(description="What the next job may cost.")


@operation("GET", f"{BASE}/balance", tag="account", answer=BalanceAnswer)
async def get_balance(call: Call[None, NoQuery]) -> Response:
    """Read the prepaid balance."""
    wallet = await balance(call.services.database, call.account_id)
    return BalanceAnswer(
        balance_usd=usd(wallet.balance),
        balance_micros=wallet.balance,
        held_usd=usd(wallet.held),
        available_usd=usd(wallet.available),
    ).response()
