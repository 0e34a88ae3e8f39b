"""The demonstration: its phases."""

import re

from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax.cli import demo
from ioca_jax.report.tables import first_findings


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
    assert max(map(len, lines)) < 80


def test_the_demonstration_ends_as_a_run_does(
    monkeypatch, computed, tiny_run, tmp_path, capsys
):
    monkeypatch.setenv("COLUMNS", "60")
    data = own_data()
    run_study = ioca.run_study

    def of_tiny(config, folder, **options):
        return run_study(TINY, folder, data=data, draw=False, **options)

    monkeypatch.setattr(ioca, "run_study", of_tiny)
    demo.main(demo.DemoOptions(str(tmp_path / "run")))
    out, error = capsys.readouterr()
    assert error.splitlines()[0].startswith("networks 1 to ")  # a line tells
    findings = ioca.findings(ioca.load_results(tmp_path / "run"))
    said = " ".join(out.split())
    for number, sentence in enumerate(first_findings(findings), 1):
        assert f" {number}. {sentence} " in said
    findings_alone = out.partition("\nAll findings")[0].partition(": 3 networks")[2]
    assert max(map(len, findings_alone.splitlines())) <= 60
    assert not re.search(r"^ *%", out, re.MULTILINE)
    assert f"All findings: {tmp_path / 'run' / 'report.html'}; as text: " in said


def test_eight_networks_can_decide():
    assert demo.CONFIG.seeds == tuple(range(8))
