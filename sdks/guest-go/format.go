package guest

import "strings"

// Constraint is what an answer keeps to, in the words of the common APIs: an object whose `type` is
// `text`, `json_object`, `json_schema`, `regex` or `grammar`, with what it needs beside it; nil where
// anything may be said. Whether it means anything is the host's to say.
func (p *Params) Constraint(name string) (*Constraint, error) {
	format, err := p.object(name)
	if err != nil || format == nil {
		return nil, err
	}
	constraint, err := constraintOf(format)
	if err := first(err, format.Finish()); err != nil {
		return nil, err
	}
	return constraint, nil
}

func constraintOf(format *Params) (*Constraint, error) {
	kind, err := format.neededText("type")
	if err != nil {
		return nil, err
	}
	switch kind {
	case "text":
		return nil, nil
	case "json_object":
		return &Constraint{Kind: JSONObject}, nil
	case "json_schema":
		text, err := schema(format)
		return &Constraint{JSONSchema, text}, err
	case "regex":
		text, err := format.neededText("regex")
		return &Constraint{Regex, text}, err
	case "grammar":
		text, err := format.neededText("grammar")
		return &Constraint{Grammar, text}, err
	}
	return nil, format.wrong("type", "`text`, `json_object`, `json_schema`, `regex` or `grammar`")
}

// schema is the schema as it was sent: an answer has its keys in the schema's order.
func schema(format *Params) (string, error) {
	const field = "json_schema"
	named, err := format.object(field)
	if err != nil {
		return "", err
	}
	if named == nil {
		return "", format.wrong(field, "an object")
	}
	sent := string(named.fields["schema"])
	delete(named.fields, "schema")
	if sent != "true" && sent != "false" && !strings.HasPrefix(sent, "{") {
		return "", named.wrong("schema", "a JSON schema")
	}
	// A schema is always kept to, and what it is called is for its owner.
	_, errName := named.Text("name")
	_, errDescription := named.Text("description")
	var strict bool
	_, errStrict := named.take("strict", "a boolean", &strict)
	return sent, first(errName, errDescription, errStrict, named.Finish())
}

// neededText is a text without which the rest means nothing.
func (p *Params) neededText(name string) (text string, err error) {
	is, err := p.take(name, "a string", &text)
	if err == nil && !is {
		err = p.wrong(name, "a string")
	}
	return text, err
}
