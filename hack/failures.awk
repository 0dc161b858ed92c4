# Of `go test -v`, read twice: what each test that failed said, without the long logs that follow it.
NR == FNR {
	if ($1 == "---" && $2 == "FAIL:") failed[$3] = 1
	next
}
$1 == "===" && ($2 == "RUN" || $2 == "NAME" || $2 == "CONT") { test = $3; said = 0; next }
/^ *--- / { said = 0; next }
!(test in failed) { next }
/^ *[a-z0-9_]+_test\.go:[0-9]+: / && !/ kit_test/ { said = 22; print test }
said-- > 0 { print substr($0, 1, 600) }
