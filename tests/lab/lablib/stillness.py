"""Whether a process still does anything."""

import pathlib
import time


class Stillness:
    """For how long a process has used no processor, as seen by the calls of seconds()."""

    def __init__(self, pid: int):
        self._stat = pathlib.Path(f"/proc/{pid}/stat")
        self._used, self._since = -1, 0.0

    def seconds(self) -> float:
        fields = self._stat.read_text().rpartition(")")[2].split()
        used, now = int(fields[11]) + int(fields[12]), time.monotonic()  # utime, stime: proc_pid_stat(5)
        if used != self._used:
            self._used, self._since = used, now
        return now - self._since
