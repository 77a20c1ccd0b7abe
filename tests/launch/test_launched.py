"""Which process prepares a run, and which prepares what each host needs for itself."""

import pytest

from zeropp.launch import leads, leads_host


@pytest.mark.parametrize(
    ("rank", "local_rank", "first", "first_here"),
    [(None, None, True, False), (0, 0, True, True), (1, 1, False, False), (2, 0, False, True)],
)
def test_who_leads(
    monkeypatch: pytest.MonkeyPatch,
    rank: int | None,
    local_rank: int | None,
    first: bool,
    first_here: bool,
) -> None:
    told = {"RANK": rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2}
    told |= {"MASTER_ADDR": "localhost", "MASTER_PORT": 29500}
    for name, value in told.items():
        monkeypatch.delenv(name, raising=False)
        if rank is not None:
            monkeypatch.setenv(name, str(value))
    assert (leads(), leads_host()) == (first, first_here)
