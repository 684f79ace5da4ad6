"""SLURM of two nodes on this machine, of the daemons of Debian's packages; none of its names resolves."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
INSTALL = "apt-get install slurmctld slurmd slurm-client munge"
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
SlurmdTimeout=10
KillWait=20
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=nodea NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=nodeb NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=low Nodes=nodea,nodeb Default=YES PriorityTier=1
PartitionName=high Nodes=nodea,nodeb PriorityTier=10 PreemptMode=off
"""


class Scheduler:
    """Its daemons and what is asked of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            for probe in (one, two, three):
                probe.bind(("127.0.0.1", 0))
            ports = [probe.getsockname()[1] for probe in (one, two, three)]
        text = CONF.format(folder=folder, host=socket.gethostname().split(".")[0],
                           user=pwd.getpwuid(os.getuid()).pw_name, ports=ports)  # fmt: skip
        (folder / "slurm.conf").write_text(text)
        (folder / "key").write_bytes(secrets.token_bytes(1024))
        (folder / "key").chmod(0o400)
        for name in ("state", "spool-nodea", "spool-nodeb"):
            (folder / name).mkdir()
        self.began: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """All of them; returns when both nodes are idle."""
        files = {"socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log",
                 "seed-file": "seed", "key-file": "key"}  # fmt: skip
        munge = [f"--{name}={self.folder / file}" for name, file in files.items()]
        self.daemon("munged", "--force", "--foreground", *munge)
        while not (self.folder / "munge.socket").exists():
            time.sleep(0.05)
        self.daemon("slurmctld", "-D")
        for node in ("nodea", "nodeb"):
            self.node(node)
        self.wait_idle()

    def daemon(self, *command: str) -> "subprocess.Popen[bytes]":
        """Start one, in the foreground of its own session."""
        with (self.folder / f"{command[0]}.out").open("ab") as out:
            process = subprocess.Popen(
                [*command], env=self.environment, stdout=out, stderr=out, start_new_session=True
            )
        self.began.append(process)
        return process

    def node(self, name: str) -> "subprocess.Popen[bytes]":
        """Start a node."""
        return self.daemon("slurmd", "-D", "-N", name)

    def wait_idle(self) -> None:
        """Until both nodes are free for work."""
        deadline = time.monotonic() + 60
        while self.ask("sinfo", "-h", "-p", "low", "-o", "%t %D").split() != ["idle", "2"]:
            assert time.monotonic() < deadline, self.ask("sinfo", "-N", "-l")
            time.sleep(0.2)

    def ask(self, *command: str) -> str:
        """What a command of SLURM says."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def crash(self, name: str) -> None:
        """A node and all that runs on it are gone at once."""
        for process in self.began:
            if process.args[-1:] == [name]:
                process.kill()
                process.wait()
        mine = f"SLURMD_NODENAME={name}".encode()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mine in (path / "environ").read_bytes():
                    parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                    if "slurmstepd" in Path(f"/proc/{parent}/cmdline").read_text():
                        os.kill(parent, signal.SIGKILL)
                    os.kill(int(path.name), signal.SIGKILL)

    def stop(self) -> None:
        """End jobs and daemons."""
        self.ask("scancel", "--user", str(os.getuid()))
        time.sleep(1)
        for process in reversed(self.began):
            process.terminate()
        for process in self.began:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()


def missing() -> list[str]:
    """Programs that are not there."""
    return [name for name in NEEDED if shutil.which(name) is None]
