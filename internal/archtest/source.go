package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Limits of the length of things, in lines.
const (
	MaxFile     = 350
	MaxTestFile = 500 // tables are long
	MaxFunc     = 80
	MaxMain     = 60
)

// File is one Go file that is not generated.
type File struct {
	Path string // relative to the module's root
	Text []byte
	fset *token.FileSet
	tree *ast.File
}

// Parse reads a Go file. generated tells that a tool wrote it.
func Parse(name string, text []byte) (f *File, generated bool, err error) {
	f = &File{Path: name, Text: text, fset: token.NewFileSet()}
	f.tree, err = parser.ParseFile(f.fset, name, text, parser.ParseComments)
	if err != nil {
		return nil, false, err
	}
	return f, ast.IsGenerated(f.tree), nil
}

func (f *File) isTest() bool { return strings.HasSuffix(f.Path, "_test.go") }

// HasPackageComment tells whether the file has the comment of its package.
func (f *File) HasPackageComment() bool { return f.tree.Doc != nil }

func (f *File) at(n ast.Node, format string, args ...any) string {
	return fmt.Sprintf("%s:%d: ", f.Path, f.fset.Position(n.Pos()).Line) + fmt.Sprintf(format, args...)
}

// CheckLengths finds a file, functions and a main that are too long.
func CheckLengths(f *File) (found []string) {
	lines := f.fset.File(f.tree.Pos()).LineCount()
	limit := MaxFile
	if f.isTest() {
		limit = MaxTestFile
	}
	if lines > limit {
		found = append(found, fmt.Sprintf("%s: file of %d lines, more than %d", f.Path, lines, limit))
	}
	if path.Base(f.Path) == "main.go" && strings.HasPrefix(f.Path, "cmd/") && lines > MaxMain {
		found = append(found, fmt.Sprintf("%s: main of %d lines, more than %d", f.Path, lines, MaxMain))
	}
	for _, d := range f.tree.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1; n > MaxFunc {
			found = append(found, fmt.Sprintf("%s: function %s of %d lines, more than %d", f.Path, fn.Name.Name, n, MaxFunc))
		}
	}
	return found
}

// CheckGlobals finds init functions and package-level variables other than errors, "var _" assertions and those whose
// "directory name" is allowed. Tests may have them.
func CheckGlobals(f *File, allowed map[string]string) (found []string) {
	if f.isTest() {
		return nil
	}
	for _, d := range f.tree.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			found = append(found, f.at(fn, "func init"))
		}
		gen, ok := d.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR {
			continue
		}
		for _, s := range gen.Specs {
			spec := s.(*ast.ValueSpec)
			for i, name := range spec.Names {
				if name.Name == "_" || i < len(spec.Values) && isSentinel(spec.Values[i]) || allowed[path.Dir(f.Path)+" "+name.Name] != "" {
					continue
				}
				found = append(found, f.at(name, "package-level variable %s", name.Name))
			}
		}
	}
	return found
}

// isSentinel tells whether a value is errors.New, or fmt.Errorf over another sentinel.
func isSentinel(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	return ok && (isSelector(call.Fun, "errors", "New") || isSelector(call.Fun, "fmt", "Errorf"))
}

func isSelector(e ast.Node, pkg, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == pkg
}

// CheckConstructs finds what no file may contain.
func CheckConstructs(f *File) (found []string) {
	for _, imp := range f.tree.Imports {
		name, _ := strconv.Unquote(imp.Path.Value)
		if slices.Contains([]string{"math/rand", "net/http/pprof"}, name) {
			found = append(found, f.at(imp, "import of %s", name))
		}
	}
	dataPath := strings.HasPrefix(f.Path, "ztunnel/") && !f.isTest()
	loops := 0
	var walk func(n ast.Node) bool
	walk = func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if has(n, "InsecureSkipVerify") && !has(n, "VerifyConnection") {
				found = append(found, f.at(n, "InsecureSkipVerify without VerifyConnection"))
			}
		case *ast.SelectorExpr:
			if isSelector(n, "http", "DefaultServeMux") || isSelector(n, "http", "HandleFunc") || isSelector(n, "http", "ListenAndServe") {
				found = append(found, f.at(n, "net/http's default mux"))
			}
			if dataPath && isSelector(n, "url", "Parse") {
				found = append(found, f.at(n, "url.Parse in the data path"))
			}
			if loops > 0 && isSelector(n, "time", "After") && !f.isTest() {
				found = append(found, f.at(n, "time.After in a loop"))
			}
		case *ast.CallExpr:
			if !f.isTest() && len(n.Args) == 1 && (isSelector(n.Fun, "regexp", "MustCompile") || isSelector(n.Fun, "regexp", "Compile")) {
				if lit, ok := n.Args[0].(*ast.BasicLit); !ok || lit.Kind != token.STRING {
					found = append(found, f.at(n, "regular expression that is no literal"))
				}
			}
		case *ast.ForStmt:
			loops++
			ast.Inspect(n.Body, walk)
			loops--
			return false
		case *ast.RangeStmt:
			loops++
			ast.Inspect(n.Body, walk)
			loops--
			return false
		}
		return true
	}
	ast.Inspect(f.tree, walk)
	return found
}

func has(lit *ast.CompositeLit, field string) bool {
	return slices.ContainsFunc(lit.Elts, func(e ast.Expr) bool {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			return false
		}
		key, ok := kv.Key.(*ast.Ident)
		return ok && key.Name == field
	})
}
