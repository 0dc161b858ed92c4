package podnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// diag asks a pod's kernel about the pod's sockets and ends them: sock_diag(7). Its socket is in the pod's namespace, so
// that nothing has to enter it later.
type diag struct {
	mu  sync.Mutex
	fd  int // -1 once closed
	seq uint32
}

// What x/sys does not name, from linux/sock_diag.h and linux/inet_diag.h.
const (
	sockDestroy   = 21 // SOCK_DESTROY
	diagInfo      = 2  // INET_DIAG_INFO
	diagReqSize   = 56 // struct inet_diag_req_v2
	diagMsgSize   = 72 // struct inet_diag_msg
	diagNoCookie  = 0xffffffff
	diagAllStates = 0xffffffff
	diagTimeout   = 2 // seconds: the kernel answers while it is asked
)

// openDiag is called on the thread, in the pod's namespace.
func openDiag() (*diag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("make sock_diag socket: %w", err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: diagTimeout}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("limit sock_diag socket: %w", err)
	}
	return &diag{fd: fd}, nil
}

func (d *diag) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd >= 0 {
		unix.Close(d.fd)
		d.fd = -1
	}
}

// destroy ends the pod's socket between two addresses as if its connection had been aborted: both ends get a reset.
// Returns an error that wraps unix.ENOENT if there is none.
func (d *diag) destroy(local, remote netip.AddrPort) error {
	if _, err := d.ask(sockDestroy, unix.NLM_F_ACK, local, remote); err != nil {
		return fmt.Errorf("end socket %s to %s: %w", local, remote, err)
	}
	return nil
}

// traffic returns how many bytes of payload the socket's peer took and sent so far; a FIN may be counted.
func (d *diag) traffic(local, remote netip.AddrPort) (sent, received uint64, err error) {
	answer, err := d.ask(unix.SOCK_DIAG_BY_FAMILY, 0, local, remote)
	if err == nil {
		if sent, received, err = tcpBytes(answer); err == nil {
			return sent - min(1, sent), received, nil // its SYN
		}
	}
	return 0, 0, fmt.Errorf("look at socket %s to %s: %w", local, remote, err)
}

// ask sends one request about one socket and returns the payload of its answer, nil for an acknowledgement.
func (d *diag) ask(kind, flags uint16, local, remote netip.AddrPort) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd < 0 {
		return nil, os.ErrClosed
	}
	d.seq++
	if err := unix.Sendto(d.fd, diagRequest(kind, unix.NLM_F_REQUEST|flags, d.seq, local, remote), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	buf := make([]byte, 8<<10)
	for {
		n, _, err := unix.Recvfrom(d.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if payload, err, ours := diagAnswer(buf[:n], d.seq); ours {
			return payload, err
		}
	}
}

// diagRequest is a struct nlmsghdr and a struct inet_diag_req_v2. IPv4 is asked for as such: it finds v4-mapped sockets too.
func diagRequest(kind, flags uint16, seq uint32, local, remote netip.AddrPort) []byte {
	b := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr+diagReqSize)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	family := byte(unix.AF_INET6)
	if local.Addr().Unmap().Is4() {
		family = unix.AF_INET
	}
	b = append(b, family, unix.IPPROTO_TCP, 1<<(diagInfo-1), 0)
	b = binary.NativeEndian.AppendUint32(b, diagAllStates)
	b = binary.BigEndian.AppendUint16(b, local.Port())
	b = binary.BigEndian.AppendUint16(b, remote.Port())
	b = appendDiagAddr(b, local.Addr())
	b = appendDiagAddr(b, remote.Addr())
	b = binary.NativeEndian.AppendUint32(b, 0) // any interface
	b = binary.NativeEndian.AppendUint32(b, diagNoCookie)
	return binary.NativeEndian.AppendUint32(b, diagNoCookie)
}

func appendDiagAddr(b []byte, a netip.Addr) []byte {
	if a = a.Unmap(); a.Is4() {
		v4 := a.As4()
		return append(append(b, v4[:]...), make([]byte, 12)...)
	}
	v6 := a.As16()
	return append(b, v6[:]...)
}

// diagAnswer reads a datagram of the kernel's. It is ours if it answers seq.
func diagAnswer(b []byte, seq uint32) (payload []byte, err error, ours bool) {
	if len(b) < unix.SizeofNlMsghdr || binary.NativeEndian.Uint32(b[8:]) != seq {
		return nil, nil, false
	}
	kind := binary.NativeEndian.Uint16(b[4:])
	payload = b[unix.SizeofNlMsghdr:min(len(b), max(unix.SizeofNlMsghdr, int(binary.NativeEndian.Uint32(b))))]
	if kind != unix.NLMSG_ERROR {
		return payload, nil, true
	}
	if len(payload) < 4 {
		return nil, errors.New("answer is cut short"), true
	}
	if code := int32(binary.NativeEndian.Uint32(payload)); code != 0 {
		return nil, unix.Errno(-code), true
	}
	return nil, nil, true
}

// tcpBytes finds bytes_acked and bytes_received of INET_DIAG_INFO, a struct tcp_info, among the attributes behind a struct
// inet_diag_msg.
func tcpBytes(b []byte) (acked, received uint64, err error) {
	const ackedAt, receivedAt = unsafe.Offsetof(unix.TCPInfo{}.Bytes_acked), unsafe.Offsetof(unix.TCPInfo{}.Bytes_received)
	for b = b[min(len(b), diagMsgSize):]; len(b) >= unix.SizeofRtAttr; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			break
		}
		if info := b[unix.SizeofRtAttr:size]; binary.NativeEndian.Uint16(b[2:]) == diagInfo && len(info) >= int(receivedAt)+8 {
			return binary.NativeEndian.Uint64(info[ackedAt:]), binary.NativeEndian.Uint64(info[receivedAt:]), nil
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return 0, 0, errors.New("the kernel says nothing of its traffic")
}
