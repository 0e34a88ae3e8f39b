"""The demonstration: its phases and findings, of a table made here."""

import command_line
import pandas as pd
import pytest


@pytest.fixture
def demo():
    with command_line.loaded("experiments.demo") as module:
        yield module


def test_the_clearest_comparison_of_each_claim_is_told(demo):
    names = ["claim", "scope", "clamp", "measure", "effect", "low", "high"]
    names += ["p_corrected", "verdict"]
    rows = [
        ("1", "network", "zero", "entropy", -0.03, -0.06, 0.01, 0.18, "undecided"),
        ("1", "network", "mean", "entropy", -0.01, -0.06, 0.01, 0.5, "undecided"),
        ("4", "layer_2", "mean", "random", 0.05, 0.04, 0.06, 0.0078, "holds"),
        ("5", "layer_2", "", "random", 0.05, 0.04, 0.06, 0.0078, "holds"),
    ]
    first, second = demo.findings(pd.DataFrame(rows, columns=names))
    assert first == (
        "Over the whole network, ascending order is no better than random order: "
        "undecided (network, entropy, clamp zero). ascending minus random order, "
        "normalised area: -0.030, 95 % interval -0.060 to +0.010, corrected p = 0.18."
    )
    assert second.startswith("Ablation in deeper layers does less harm: holds (layer")
    assert demo.findings(pd.DataFrame(columns=names)) == []


def test_phases_are_told_once(demo, capsys):
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


def test_eight_networks_can_decide(demo):
    assert demo.CONFIG.seeds == tuple(range(8))
