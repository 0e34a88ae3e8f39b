"""The demonstration: its phases."""

from ioca_jax.cli import demo


def test_phases_are_told_once(capsys):
    chunk = {"seeds": 8, "chunk": 1, "epochs": 20}
    demo.explain({"event": "start", "finished": 0, **chunk})
    for number in (1, 2):
        of_chunk = chunk | {"chunk": number}
        for epoch in (19, 20):
            demo.explain({"event": "epoch", "epoch": epoch, **of_chunk})
        demo.explain({"event": "chunk", "finished": 4 * number, **of_chunk})
    lines = capsys.readouterr().out.splitlines()
    assert [line[:2] for line in lines if line[0] != " "] == ["1.", "2.", "3."]
    assert "   4 of 8 networks done." in lines


def test_eight_networks_can_decide():
    assert demo.CONFIG.seeds == tuple(range(8))
