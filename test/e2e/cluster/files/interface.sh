#!/bin/sh
# The CNI plug-in of its own name, in a pod whose IPv6 addresses are usable at once: duplicate address detection would
# hold up each pod for more than a second.
if [ "$CNI_COMMAND" = ADD ]; then
	nsenter --net="$CNI_NETNS" sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad'
fi
exec "{{.PluginDir}}/${0##*/}"
