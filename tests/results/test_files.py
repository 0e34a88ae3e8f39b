"""The memory that is free, within the limit of the process's control group."""

import pytest

from ioca_jax.results import files

VERSIONS = {
    2: ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    1: (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_control_group_holds_is_not_free(version, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "_CONTROL_GROUPS", tmp_path)
    limit, usage, stat, cached = (*VERSIONS[version],)
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / stat).write_text(f"anon 500000\n{cached} 100000\n")
    for allowed, used, free in (
        ("1000000", "600000", 500_000),  # of which caches: 100,000
        ("1000000", "1200000", 0),
        ("1000000", "50000", 1_000_000),  # the files are read one after the other
    ):
        (tmp_path / limit).write_text(f"{allowed}\n")
        (tmp_path / usage).write_text(f"{used}\n")
        assert files.free_memory() == free


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096)])
def test_without_a_limit_the_machine_counts(limit, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "_CONTROL_GROUPS", tmp_path / "none")
    on_machine = files.free_memory()
    assert on_machine > 10**7
    monkeypatch.setattr(files, "_CONTROL_GROUPS", tmp_path)
    for name, content in zip(
        VERSIONS[2], (limit, "5", "inactive_file 2"), strict=False
    ):
        (tmp_path / name).write_text(content)
    assert files.free_memory() == pytest.approx(on_machine, rel=0.5)
