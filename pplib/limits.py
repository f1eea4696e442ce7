"""Every wait, its length and why: in seconds, and nowhere else. Used as `limits.NAME`: tests shorten some."""

# Sockets between workers, and from a coordinator to one.
CONNECTION_POLL_S = 0.25  # how often a blocked call looks at its deadline
KEEPALIVE_IDLE_S, KEEPALIVE_PROBE_S, KEEPALIVE_PROBES = 5, 3, 5  # five are lost with a loss of 20 % once in 3000 times
DEAD_LINK_S = KEEPALIVE_IDLE_S + KEEPALIVE_PROBES * KEEPALIVE_PROBE_S  # about when a link that is gone is noticed
HANDSHAKE_S = 5.0  # four ways over the slowest link, of 1 s each at most
BLOCK_S = 60.0  # for a block of what a peer has begun to send: slower than 35 kbit/s is given up
ACCEPT_RETRY_S = 0.1  # where accepting fails, for lack of files say
EVICTED_S = 1.0  # for the thread of a stranger that was shut out to end

# A worker, and whoever asks it.
FIRST_REQUEST_S = 30.0  # a coordinator that has the session says why
REQUEST_REST_S = 30.0  # for the rest of a request that has begun
SESSION_WAIT_S = 5.0  # how long a coordinator waits for the session before its own to end
LEAVE_SESSION_S = 30.0  # the main thread may be inside a long operation when a coordinator goes; not for ever
REFUSAL_S = 5.0  # for the first request of one that is refused, and again for the answer
FOREVER_S = 10.0 * 365 * 86400  # a session, and a watcher's silence, have no limit of their own
THREAD_START_S = 10.0  # a thread that is not up then has no memory
THREAD_LOOK_S = 0.1  # between looks at whether there is memory for what does not come up
THREAD_JOIN_S = 5.0  # for a thread that samples to see that it is over
STANDSTILL_TICK_S = 0.1
STANDSTILL_S = 1.0  # what a trial bears; a busy machine lets a thread wait for some tenths of it
READING_S = 2.0  # for a program that reads a sensor

# What a coordinator asks for.
OPEN_HOPS_S = 30.0  # to find all neighbours
CONNECT_RETRY_S = 0.2  # until a neighbour listens
NEIGHBOUR_S = 600.0  # that a coordinator may have a worker wait for a neighbour, where its leaving wakes nobody
BUILD_STAGE_S = 300.0
TIME_STAGE_S = 1800.0  # some runs of a model that takes minutes
PROFILE_S = 7200.0  # of all devices
INPUTS_S = 600.0  # all images of a trial, over a slow network
WEIGHTS_S = 3600.0  # half a gigabyte at 1 Mbit/s
WEIGHTS_CHECK_S = 600.0  # a small device reads and checks a gigabyte in a minute
TAKE_TRACE_S = 60.0  # for what was seen, and for each piece of the outputs
EVIDENCE_S = 5.0  # for the same of a run that failed, from each worker
GIVE_UP_S = 10.0  # for a worker that is told to, before its connection is closed
LEAST_TRIAL_S = 60.0  # no trial is given up before
LINK_MEASUREMENT_S = 60.0  # beyond what it takes by itself

# Hops.
HOP_POLL_S = 0.2  # how often a blocked wait looks at its deadline and at the stop flag
RECEIVER_EARLIER_S = 0.6  # that a receiver gives up before its trial does, so that the error told names the peer
LEAVE_RPC_S = 10  # for the others of a group to leave, too; twice that for PyTorch to let go

# Workers that are looked after.
PING_S = 1.0
SILENT_S = 15.0  # a worker answers at once, whatever it does; one that does not is stopped, or its device is
RESTART_RETRY_S = 3.0  # between attempts to start it again: its device may be booting
REACH_RETRY_S = 0.3  # between attempts to reach one that is being started
ENDING_S = 3.0  # that a process which has let go of its sockets may take to be gone
FORGOTTEN_AFTER_S = 45  # without a word from anybody a worker on a device ends by itself

# Devices over SSH.
SSH_CONNECT_S = 10.0
SSH_KEEPALIVE_S = 10  # how often something is sent while nothing else is
SSH_LOST_S = 20.0  # how long what was sent may stay unacknowledged
SSH_RUN_S = 30.0  # for a command that nothing else is said of
SSH_GRACE_S = 5.0  # that the device has more, to end the command itself
PROXY_END_S = 2.0  # for a ProxyCommand to end by itself
TUNNEL_OPEN_S = 30.0
TUNNEL_RETRY_S = 3.0
UNPACK_S = 120.0  # our code, onto a Pi's card
STATUS_S = 60.0
FACTS_S = 150.0  # importing torch takes an old Pi long, the first time
HOP_S = 20.0  # to measure one, by `check`
CHECK_DEVICE_S = 200.0  # all that is asked of one device
INSTALL_S = 3600.0  # PyTorch is large, and a Pi's card is slow
IMPORT_S = 180.0
CACHE_COMMAND_S = 120.0

# Links.
SHAPE_S = 60.0  # for a device to shape its interface
SHAPE_RENEW_S = 5.0  # how often a device is told that its interface is still to be shaped
SHAPE_UNDO_AFTER_S = 30  # after which it undoes it where nobody says so
NAMESPACES_START_S = 30.0
NAMESPACES_REPLY_S = 20.0
NAMESPACES_PROBE_S = 20.0  # to find out whether there can be any
NAMESPACE_GRACE_S = 2.0  # for the processes inside to end by themselves

# Files.
CACHE_LOCK_S = 60.0  # nobody holds the lock of another for long
CACHE_POLL_S = 0.05
KERNEL_START_S = 180.0  # for a kernel to be forked, and all that notebooks import to be loaded before
PROGRESS_POLL_S = 0.5  # how often a display looks for news
