package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// The first bytes of every WebAssembly binary, and the ids of sections: of a component's own
// modules, and of a module's imports and exports.
const (
	preambleLen     = 8
	moduleSection   = 1
	importSection   = 2
	exportSection   = 7
	functionImport  = 0
	componentLayer  = 0x0d
	moduleVersion   = 1
	versionPosition = 4
)

var errCut = errors.New("the WebAssembly binary is cut short")

// wrap puts a module in the place of the template's first one, whose imports and exports say what a
// program may have.
func wrap(template, module []byte) ([]byte, error) {
	if len(template) < preambleLen || template[versionPosition] != componentLayer {
		return nil, errors.New("the template is no component")
	}
	var component []byte
	isIn := false
	err := sections(template, func(id byte, whole, body []byte) error {
		if id != moduleSection || isIn {
			component = append(component, whole...)
			return nil
		}
		module, err := distinct(module)
		if err != nil {
			return err
		}
		if err := fits(body, module); err != nil {
			return err
		}
		isIn = true
		component = append(component, moduleSection)
		component = binary.AppendUvarint(component, uint64(len(module)))
		component = append(component, module...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !isIn {
		return nil, errors.New("the template has no module")
	}
	return append(slices.Clone(template[:preambleLen]), component...), nil
}

// distinct gives the second import of a name another one: Go's runtime and its library import some
// functions each for itself, and a component takes no name twice.
func distinct(module []byte) ([]byte, error) {
	if len(module) < preambleLen || module[versionPosition] != moduleVersion {
		return nil, errors.New("the compiler wrote no module")
	}
	changed := slices.Clone(module[:preambleLen])
	err := sections(module, func(id byte, whole, body []byte) error {
		if id != importSection {
			changed = append(changed, whole...)
			return nil
		}
		imports, err := renamed(body)
		changed = append(changed, importSection)
		changed = binary.AppendUvarint(changed, uint64(len(imports)))
		changed = append(changed, imports...)
		return err
	})
	return changed, err
}

func renamed(body []byte) (imports []byte, err error) {
	from := &reader{body}
	count := from.number()
	imports = binary.AppendUvarint(imports, count)
	seen := map[string]bool{}
	for range count {
		module, name, kind := from.name(), from.name(), from.number()
		index := from.number()
		if from.bytes == nil {
			return nil, errCut
		}
		if kind != functionImport {
			return nil, fmt.Errorf("the program imports `%s %s`, which is no function", module, name)
		}
		if seen[module+" "+name] {
			name += " again"
		}
		seen[module+" "+name] = true
		imports = appendName(appendName(imports, module), name)
		imports = binary.AppendUvarint(append(imports, functionImport), index)
	}
	return imports, nil
}

func appendName(bytes []byte, name string) []byte {
	return append(binary.AppendUvarint(bytes, uint64(len(name))), name...)
}

// fits refuses a module that imports what the template's does not, or lacks one of its exports.
func fits(stand, module []byte) error {
	may, must, err := surface(stand)
	if err != nil {
		return fmt.Errorf("the template: %w", err)
	}
	imports, exports, err := surface(module)
	if err != nil {
		return err
	}
	for _, name := range imports {
		if !slices.Contains(may, name) {
			return fmt.Errorf("the program imports `%s`, which no program is given", name)
		}
	}
	for _, name := range must {
		if !slices.Contains(exports, name) {
			return fmt.Errorf("the program does not export `%s`: does it use the package guest?", name)
		}
	}
	return nil
}

// surface has the names of what a module imports and exports.
func surface(module []byte) (imports, exports []string, err error) {
	err = sections(module, func(id byte, _, body []byte) error {
		from := &reader{body}
		switch id {
		case importSection:
			for range from.number() {
				imports = append(imports, from.name()+" "+from.name())
				from.number()
				from.number()
				if from.bytes == nil {
					return errCut
				}
			}
		case exportSection:
			for range from.number() {
				exports = append(exports, from.name())
				from.number()
				from.number()
				if from.bytes == nil {
					return errCut
				}
			}
		}
		return nil
	})
	return imports, exports, err
}

// sections visits each section: its id, all of it, and what is in it.
func sections(binary []byte, visit func(id byte, whole, body []byte) error) error {
	rest := &reader{binary[preambleLen:]}
	for len(rest.bytes) > 0 {
		start := rest.bytes
		id := rest.take(1)
		body := rest.take(rest.number())
		if rest.bytes == nil {
			return errCut
		}
		if err := visit(id[0], start[:len(start)-len(rest.bytes)], body); err != nil {
			return err
		}
	}
	return nil
}

// reader takes from the front. Its bytes are nil once more was asked for than there was.
type reader struct{ bytes []byte }

func (r *reader) take(count uint64) []byte {
	if count > uint64(len(r.bytes)) || r.bytes == nil {
		r.bytes = nil
		return nil
	}
	taken := r.bytes[:count]
	r.bytes = r.bytes[count:]
	return taken
}

func (r *reader) number() uint64 {
	number, length := binary.Uvarint(r.bytes)
	if length <= 0 {
		r.bytes = nil
		return 0
	}
	r.bytes = r.bytes[length:]
	return number
}

func (r *reader) name() string { return string(r.take(r.number())) }
