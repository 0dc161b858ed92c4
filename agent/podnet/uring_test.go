package podnet

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// connectRaw is connect(2) with an address that x/sys has no type for.
func connectRaw(fd int, sa *unix.RawSockaddrAny, size uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(sa)), size); errno != 0 {
		return errno
	}
	return nil
}

// rawSockaddr is what the kernel reads of an address.
func rawSockaddr(sa unix.Sockaddr) (raw *[28]byte, size uint64) {
	raw = new([28]byte)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		raw[0], raw[2], raw[3] = unix.AF_INET, byte(sa.Port>>8), byte(sa.Port)
		copy(raw[4:], sa.Addr[:])
		return raw, 16
	case *unix.SockaddrInet6:
		raw[0], raw[2], raw[3] = unix.AF_INET6, byte(sa.Port>>8), byte(sa.Port)
		copy(raw[8:], sa.Addr[:])
		return raw, 28
	}
	return raw, 0
}

// uringParams is struct io_uring_params (include/uapi/linux/io_uring.h).
type uringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFd uint32
	_                                                                      [3]uint32
	sq                                                                     struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
		_                                                           uint64
	}
	cq struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
		_                                                           uint64
	}
}

const (
	uringOpConnect     = 16
	uringEnterGet      = 1
	uringOffSQ         = 0
	uringOffSQEs       = 0x10000000
	uringSQEBytes      = 64
	uringFeatureSingle = 1 // both rings in one mapping, Linux 5.4
)

// uringConnect connects by IORING_OP_CONNECT.
func uringConnect(s *sock, to unix.Sockaddr) error {
	var p uringParams
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 2, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	defer unix.Close(int(ring))
	if p.features&uringFeatureSingle == 0 {
		return fmt.Errorf("io_uring without a single mapping")
	}
	rings, err := unix.Mmap(int(ring), uringOffSQ, int(max(p.sq.array+p.sqEntries*4, p.cq.cqes+p.cqEntries*16)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("map rings: %w", err)
	}
	defer unix.Munmap(rings)
	sqes, err := unix.Mmap(int(ring), uringOffSQEs, int(p.sqEntries)*uringSQEBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("map entries: %w", err)
	}
	defer unix.Munmap(sqes)
	raw, size := rawSockaddr(to)
	word := func(b []byte, off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&b[off])) }
	sqes[0] = uringOpConnect
	*word(sqes, 4) = uint32(s.fd)
	*(*uint64)(unsafe.Pointer(&sqes[8])) = size
	*(*uintptr)(unsafe.Pointer(&sqes[16])) = uintptr(unsafe.Pointer(raw))
	*word(rings, p.sq.array) = 0
	atomic.AddUint32(word(rings, p.sq.tail), 1)
	for {
		_, _, errno = unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, uringEnterGet, 0, 0)
		if errno != unix.EINTR {
			break
		}
	}
	runtime.KeepAlive(raw)
	if errno != 0 {
		return fmt.Errorf("io_uring_enter: %w", errno)
	}
	if res := int32(*word(rings, p.cq.cqes+8)); res < 0 {
		return unix.Errno(-res)
	}
	return nil
}
