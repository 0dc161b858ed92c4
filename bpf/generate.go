package bpf

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpf -type addr -type slot -type own_addr -type origin_key -type origin -type peer_key -type kubelet -type ends -type permit_key -type permit -type neighbour -type direct -type direct_event -type direct_kind -type direct_flag -type lane -type lane_side -type lane_key -type pod_state -type listener_role -type capture_reason capture capture.c -- -O2 -Wall -Werror -I. -I/usr/include/x86_64-linux-gnu
