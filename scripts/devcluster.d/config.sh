# shellcheck shell=bash
# The files that the nodes see as /etc/slurm, /etc/hosts, /etc/passwd and /etc/group.

readonly SUBNET=10.77.0 # exists only inside the cluster's own network namespaces
readonly USER_NAME=evaluser USER_ID=20001
readonly MEMORY_MIB=256000

address_of() { if [ "$1" = login ]; then echo "$SUBNET.254"; else echo "$SUBNET.${1#n}"; fi; }

slurm_conf() {
  local node gres=''
  [ "$GPUS" -eq 0 ] || gres="Gres=gpu:h100:$GPUS"
  cat <<CONF
ClusterName=devcluster
SlurmctldHost=login($(address_of login))
SlurmUser=root
AuthType=auth/munge
# Requeued jobs wait until the credential of their first run has expired: 121 s by default.
AuthInfo=socket=$STATE/munge/socket,cred_expire=5
# No cgroups: they belong to the machine.
ProctrackType=proctrack/linuxproc
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
StateSaveLocation=$STATE/controller
SlurmdSpoolDir=$STATE/nodes/%n/spool
SlurmctldPidFile=$STATE/run/slurmctld.pid
SlurmdPidFile=$STATE/run/slurmd-%n.pid
SlurmctldLogFile=$STATE/log/slurmctld.log
SlurmdLogFile=$STATE/log/slurmd-%n.log
MailProg=/bin/true
# Nodes may claim more CPUs and memory than this machine has.
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=6
MessageTimeout=5
# A ping to a dead node takes three times this, and it takes two pings to call the node down.
TCPTimeout=1
KillWait=5
BatchStartTimeout=10
UnkillableStepTimeout=20
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=1000,bf_interval=1,bf_continue,bf_max_job_test=2000,default_queue_depth=2000,sched_max_job_start=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
MaxArraySize=10001
MaxJobCount=100000
JobRequeue=1
# Without it a job that can never run waits for ever.
EnforcePartLimits=ALL
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PriorityType=priority/basic
GresTypes=gpu
CONF
  [ "$ACCOUNTING" -eq 0 ] || cat <<CONF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$(address_of login)
# Not a password: the connection to slurmdbd takes the munge socket from here, not from AuthInfo.
AccountingStoragePass=$STATE/munge/socket
AccountingStoreFlags=job_comment,job_env,job_script
AccountingStorageTRES=gres/gpu
CONF
  for node in $(seq -f 'n%g' "$NODES"); do
    echo "NodeName=$node NodeAddr=$(address_of "$node") CPUs=$CPUS RealMemory=$MEMORY_MIB $gres"
  done
  cat <<'CONF'
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=10
PartitionName=low Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=lowest Nodes=ALL MaxTime=INFINITE PriorityTier=0 PreemptMode=CANCEL GraceTime=0
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=100 PreemptMode=OFF
PartitionName=tiny Nodes=ALL MaxTime=2 PriorityTier=10
CONF
}

slurmdbd_conf() { # PASSWORD
  cat <<CONF
AuthType=auth/munge
AuthInfo=socket=$STATE/munge/socket
DbdHost=login
DbdAddr=$(address_of login)
SlurmUser=root
LogFile=$STATE/log/slurmdbd.log
PidFile=$STATE/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=3306
StorageUser=slurm
StoragePass=$1
StorageLoc=slurm_acct_db
CONF
}

hosts_file() {
  local node
  printf '%s\n' '127.0.0.1 localhost' '::1 localhost'
  for node in $(node_names); do echo "$(address_of "$node") $node"; done
}

write_users() { # the machine's own users and the ordinary one, in copies
  local file home=$STATE/home/$USER_NAME
  for file in passwd group; do # a namesake or a stranger with the same number is left out
    awk -F: -v n="$USER_NAME" -v i="$USER_ID" '$1 != n && $3 != i' "/etc/$file" >"$STATE/etc/$file"
  done
  echo "$USER_NAME:x:$USER_ID:$USER_ID:ordinary user:$home:/bin/bash" >>"$STATE/etc/passwd"
  echo "$USER_NAME:x:$USER_ID:" >>"$STATE/etc/group"
  mkdir -p "$home"
  chown "$USER_ID:$USER_ID" "$home"
}

write_gpus() { # Slurm wants character devices for GPUs: these are further /dev/null
  local gpu
  : >"$STATE/etc/slurm/gres.conf"
  [ "$GPUS" -gt 0 ] || return 0
  for gpu in $(seq 0 $((GPUS - 1))); do mknod -m 666 "$STATE/dev/nvidia$gpu" c 1 3; done
  echo "NodeName=n[1-$NODES] Name=gpu Type=h100 File=$STATE/dev/nvidia[0-$((GPUS - 1))]" \
    >"$STATE/etc/slurm/gres.conf"
}

write_plugins() { # copied, so that whoever may read the state folder may load it
  : >"$STATE/etc/slurm/plugstack.conf"
  [ -n "$SPANK" ] || return 0
  install -D -m 755 "$SPANK" "$STATE/lib/${SPANK##*/}"
  echo "required $STATE/lib/${SPANK##*/}" >"$STATE/etc/slurm/plugstack.conf"
}

write_devices() { # /dev/fuse is for everybody where udev makes it
  [ ! -c /dev/fuse ] || mknod -m 666 "$STATE/dev/fuse" c 10 229
}

write_config() {
  local password
  mkdir -p "$STATE"/{etc/slurm,nodes,run,log,controller,munge,dev}
  slurm_conf >"$STATE/etc/slurm/slurm.conf"
  write_plugins
  hosts_file >"$STATE/etc/hosts"
  write_users
  write_gpus
  write_devices
  (umask 077 && head -c 1024 /dev/urandom >"$STATE/munge/key")
  [ "$ACCOUNTING" -eq 1 ] || return 0
  password=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
  (umask 077 && slurmdbd_conf "$password" >"$STATE/etc/slurm/slurmdbd.conf")
}
