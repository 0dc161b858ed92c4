package manifest

// Parse reads one file's content without a loader: what a command checks before anybody deploys it.
// Errors wrap ErrRejected and begin with "file:line:".
func Parse(file string, data []byte) ([]*Object, []Ignored, error) {
	p, err := parse(file, data)
	return p.objects, p.ignored, err
}
