package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

func FuzzCleanIsPrintable(f *testing.F) {
	for _, s := range []string{"", "shop/web", "\x1b[2J", "\u009b31m", "a\xffb", "\u202ex", "é√", "\uFFFD", "\U000e0001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if !utf8.ValidString(got) {
			t.Fatalf("clean(%q) = %q is not UTF-8", s, got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Fatalf("clean(%q) keeps %U", s, r)
			}
		}
	})
}

func FuzzJSONIsHarmlessAndFaithful(f *testing.F) {
	for _, s := range []string{"", "\x1b]0;x\x07", "\u009b", "\u007f", "\u202e", "\u2028", "\U000e0001", `"\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			t.Skip("proto strings are UTF-8")
		}
		raw, err := toJSON(&adminv1.Flow{Id: s})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range string(raw) {
			if unicode.IsControl(r) {
				t.Fatalf("%q holds the control character %U", raw, r)
			}
		}
		var back struct{ Id string }
		if err := json.Unmarshal(raw, &back); err != nil || back.Id != s {
			t.Fatalf("%q came back as %q: %v", s, back.Id, err)
		}
	})
}

func TestLongCellsAreCut(t *testing.T) {
	got := cell{text: strings.Repeat("ä", 5000)}.fit()
	if n := utf8.RuneCountInString(got); n != maxCell || !strings.HasSuffix(got, "…") {
		t.Fatalf("%d characters, ends in %q", n, got[len(got)-3:])
	}
}

// TestColourDoesNotMoveColumns: a coloured table is the plain one with escapes in it.
func TestColourDoesNotMoveColumns(t *testing.T) {
	print := func(color string) string {
		var out bytes.Buffer
		a := &app{env: env{stdout: &out}, color: newChoice(color)}
		tab := table{header: []string{"A", "B", "C"}}
		tab.add(cell{"long word", bad}, cell{"√", good}, cell{})
		tab.add(cells("x", "y", "z")...)
		if err := tab.write(a, "  "); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	const want = "  A           B   C\n  long word   √   -\n  x           y   z\n"
	if got := print("never"); got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	bare := strings.NewReplacer("\x1b[31m", "", "\x1b[32m", "", "\x1b[0m", "").Replace(print("always"))
	if bare != want {
		t.Fatalf("with colour, columns move:\n%s", bare)
	}
}

// TestEveryCommandHasAnExample: help shows how a command is typed.
func TestEveryCommandHasAnExample(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s has no example that starts with its name", cmd.CommandPath())
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	a := &app{env: systemEnv()}
	walk(a.rootCommand())
}
