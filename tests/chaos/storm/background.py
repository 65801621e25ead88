"""`python -m tests.chaos.storm.background`: the background process in disguise, with a schedule of seconds."""

from __future__ import annotations

import asyncio

from api.services import Services
from core.log import configure
from core.settings import Settings
from killatamata.background import Background, until_signalled
from tests.chaos.storm import disguise
from webhooks.schedule import Schedule

SCHEDULE = Schedule(
    delays=(0.5, 1.0, 2.0, *(4.0,) * 40),
    timeout=3.0,
    lease=8.0,
    overdue=10.0,
    poll=0.5,
    share_pause=0.3,
    beat=2.0,
    silence=8.0,
    drain=2.0,
    recover_cron="* * * * * */5",
)


if __name__ == "__main__":
    settings = Settings()
    configure(settings.log_level, json=settings.log_json)
    disguise.wear()
    asyncio.run(until_signalled(Background(Services.of(settings), schedule=SCHEDULE)))
