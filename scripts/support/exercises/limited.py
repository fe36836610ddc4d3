"""Run a program with limits on memory and on the size of files, where the system knows such limits.

python limited.py 4096 program argument …     # megabytes of memory for each process
"""

import os
import sys

LARGEST_FILE = 64  # megabytes, what is printed included


def main() -> None:
    megabytes, *command = sys.argv[1:]
    import resource

    for limit, size in [
        (resource.RLIMIT_DATA, int(megabytes)),
        (resource.RLIMIT_FSIZE, LARGEST_FILE),
        (resource.RLIMIT_CORE, 0),
    ]:
        resource.setrlimit(limit, (size << 20, size << 20))
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
