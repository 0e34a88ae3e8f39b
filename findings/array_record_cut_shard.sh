#!/usr/bin/env bash
# array_record 0.8.6: a shard cut to its first 64 KB, read through a list of files with
# their numbers of records, as TensorFlow Datasets 4.9 reads, gives empty records and no
# error. The same file given by its path alone is refused.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet array_record==0.8.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import dataclasses

from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter


@dataclasses.dataclass(frozen=True)
class Part:
    filename: str
    skip: int
    take: int
    examples_in_shard: int


writer = ArrayRecordWriter("shard.array_record", "group_size:1")
for number in range(6):
    writer.write(b"record %d" % number)
writer.close()
whole = open("shard.array_record", "rb").read()
with open("shard.array_record", "wb") as file:
    file.write(whole[:65536])

source = ArrayRecordDataSource([Part("shard.array_record", 0, 6, 6)])
records = source.__getitems__([0, 1])
print(len(source), "records, the first two:", records)
assert len(source) == 6
assert records == [b"", b""], "no longer empty: the finding has changed"
try:
    ArrayRecordDataSource("shard.array_record").__getitems__([0])
except Exception as error:
    print("by path:", repr(error))
else:
    raise SystemExit("by path: no error: the finding has changed")
PYTHON
