// Package proto is what a worker and its master say to each other: messages, framing and limits. It is a leaf: both sides import it, it
// imports neither.
//
// The base is Buildbot's msgpack_experimental_v7: WebSocket (RFC 6455), HTTP Basic in the upgrade request, one msgpack map per binary message,
// requests with an op and a seq_number, exactly one response to each. An unmodified buildbot-worker attaches with that alone.
//
// On top, negotiated, is rouse's own extension. The agent offers it in the upgrade request:
//
//	Rouse-Protocol: 1
//	Rouse-Agent: <nonce>          26 characters drawn at random when the agent's process starts
//	Rouse-Instance: <key>         only if the agent was started for an instance; the Basic password is then the instance's token
//
// and a master that speaks it answers "Rouse-Protocol: 1" in its 101 response. Without that answer the agent speaks plain v7.
// With it:
//
//   - The first message is the agent's "hello" (info and running commands); it replaces get_worker_info and set_worker_settings.
//     The master answers once the agent is admitted. A refused agent gets a close frame with status StatusRefused and a reason.
//   - Output travels as "output" messages (raw UTF-8 bytes with the position of the first one in the command's whole output, all
//     streams together), not as "update". Positions count payload bytes from 0. The master acknowledges with "ack" messages:
//     every byte before the position is in its log. The agent keeps what is not acknowledged and, after a reconnect, sends again
//     from where the master says ("resume").
//   - "complete" carries the result and is repeated after a reconnect until the master has acknowledged it ("forget").
//   - A token is good for the first agent that uses it: the master remembers a digest of the agent's nonce.
//
// Neither side waits for responses to output: "output" and "ack" are one-way (seq_number 0 and no response).
//
// In detail:
//
//   - All other messages of the extension are ordinary v7 requests: seq_number counts from 0 per direction and connection, one response each.
//   - hello is the agent's first message (seq_number 0). Its response's result is nil. An agent that gets an exception closes and
//     tries again later. The master sends nothing but this response before it.
//   - After hello the agent sends neither output nor complete of the commands that it listed until the master has said "resume" for that
//     command. A command that is started on this connection needs no resume. Resume with pos below Running.From, or above To, is
//     answered with an exception: these bytes do not exist.
//   - start_command for a command that the agent already knows (the response was lost) does not run it again: it is answered as if it had just
//     begun and acts as resume from Running.From. The response of start_command says that the command was accepted, or is an
//     exception: unknown command name, missing argument. Then there will be no complete.
//   - output's pos + len(data) is never more than MaxWindow above the acknowledged position. A message holds whole runes unless resume
//     cut one apart. The first output of a command has pos 0. Header text counts like any other.
//   - ack below an earlier ack is ignored, ack above what was sent breaks the connection.
//   - complete has the fields of Completion (end, updates, args) instead of v7's update and complete, and comes after all output. The
//     master answers it at once and sends "forget" when it is stored (in this connection or after a reconnect). Until then the agent
//     lists the command as Done, and sends complete again after a resume.
//   - forget of an unknown command is no error. Forget of a running one kills it and drops everything: that is how a master disposes of a
//     command that it does not know.
//   - interrupt_command is answered at once, and is no error for an unknown command.
//   - Uploads and downloads use v7's ops (lock-step, blocks of at most MaxOutput bytes) and do not survive a lost connection: the command
//     then ends with rc 1 and a line on stderr.
//   - Either side answers a malformed message by closing the connection with status 1002 (protocol error).
package proto

import "time"

// Extension is the version of rouse's own extension.
const Extension = "1"

// Names of the HTTP headers that negotiate the extension.
const (
	HeaderProtocol = "Rouse-Protocol"
	HeaderAgent    = "Rouse-Agent"
	HeaderInstance = "Rouse-Instance"
)

// StatusRefused is the WebSocket close status of a refused agent (private range). StatusEnd tells the agent that its instance is about to be
// destroyed: it kills its commands and ends, and does not connect again.
const (
	StatusRefused = 4403
	StatusEnd     = 4410
)

// Limits on what a peer may send. Both sides enforce them when they receive and keep to them when they send.
const (
	MaxMessage = 4 << 20          // bytes in one WebSocket message
	MaxOutput  = 256 << 10        // payload bytes in one "output" message
	MaxDepth   = 32               // nesting of msgpack arrays and maps
	MaxItems   = 100_000          // elements in one msgpack array or map
	MaxWindow  = 4 << 20          // unacknowledged output bytes in flight for one command
	Heartbeat  = 10 * time.Second // each side sends a WebSocket ping this often, unless it has just heard from the other one
	DeadAfter  = 30 * time.Second // a peer from which nothing came for this long is dead
)

// Ops of Buildbot's v7.
const (
	OpPrint             = "print"
	OpKeepalive         = "keepalive"
	OpGetWorkerInfo     = "get_worker_info"
	OpSetWorkerSettings = "set_worker_settings"
	OpStartCommand      = "start_command"
	OpInterruptCommand  = "interrupt_command"
	OpShutdown          = "shutdown"
	OpUpdate            = "update"
	OpComplete          = "complete"
	OpResponse          = "response"

	OpUploadFileWrite       = "update_upload_file_write"
	OpUploadFileClose       = "update_upload_file_close"
	OpUploadFileUtime       = "update_upload_file_utime"
	OpUploadDirectoryWrite  = "update_upload_directory_write"
	OpUploadDirectoryUnpack = "update_upload_directory_unpack"
	OpReadFile              = "update_read_file"
	OpReadFileClose         = "update_read_file_close"
)

// Ops of the extension.
const (
	OpHello  = "hello"  // agent -> master: Hello in "args"; response when admitted
	OpOutput = "output" // agent -> master, one-way: command_id, stream (int), pos (int), data (bin)
	OpAck    = "ack"    // master -> agent, one-way: command_id, pos (int): all before pos is in the log
	OpResume = "resume" // master -> agent: command_id, pos (int): send again from pos, then go on. Exception if the command is not known
	OpForget = "forget" // master -> agent: command_id: its completion is stored; drop what is kept of it
	OpNotice = "notice" // agent -> master: kind, text: something the machine wants to say
)

// Kinds of notice. Others are shown to people and have no consequence.
const (
	NoticeSpot      = "spot-interruption" // the machine is about to be taken back: its builds are given to others at once
	NoticeRebalance = "rebalance"         // the machine is likely to be taken back soon: what runs goes on, nothing is begun on it
)

// Stream says where output came from.
type Stream uint8

const (
	Stdout Stream = 1
	Stderr Stream = 2
	Header Stream = 3
)

// Hello is what an agent says first in the extension.
type Hello struct {
	Info     map[string]any `msgpack:"info"`     // as the answer to get_worker_info
	Commands []Running      `msgpack:"commands"` // that this agent knows: running, or complete and not yet forgotten
}

// Running is one command that an agent holds.
type Running struct {
	ID   string `msgpack:"id"`
	From int64  `msgpack:"from"` // position of the first output byte that it can still send
	To   int64  `msgpack:"to"`   // position after the last output byte so far
	Done bool   `msgpack:"done"`
}
