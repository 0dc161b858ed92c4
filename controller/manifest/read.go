package manifest

import "errors"

// Parse reads one file's content without a loader: what a command checks before anybody deploys it.
// Errors wrap ErrRejected and begin with "file:line:".
func Parse(file string, data []byte) ([]*Object, []Ignored, error) {
	p, err := parse(file, data)
	return p.objects, p.ignored, err
}

// ParseServed reads one object as an API server has it: kinds whose schema is somebody else's may have fields that this
// version does not know. origin is what errors, which wrap ErrRejected, begin with.
func ParseServed(origin string, data []byte) (*Object, error) {
	p, err := (&parser{file: origin, served: true, nodes: maxNodes, seen: make(map[Key]Origin)}).parse(data)
	if err != nil {
		return nil, err
	}
	if len(p.objects) != 1 {
		return nil, &parseError{Origin{File: origin}, "", errors.New("it is of no kind that the mesh knows")}
	}
	o := p.objects[0]
	o.Origin = Origin{File: origin}
	return o, nil
}
