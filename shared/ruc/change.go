package ruc

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// Change is one field in which two answers differ.
type Change struct {
	Campo   string          `json:"campo"`             // name of the field in the record's JSON
	Antes   json.RawMessage `json:"antes,omitempty"`   // value as the record has it
	Despues json.RawMessage `json:"despues,omitempty"` // the same, after
}

const (
	fieldFound  = "encontrado"
	fieldMinute = "FechaConsultaSunat"
)

// Changes returns the material fields in which two answers to one number differ, in
// the order of the record; lists are compared as values, item by item. Where one of
// the answers has no record the one change is that of encontrado.
//
// It may be empty although the huellas differ: one of them may have been made by a
// version that knew fewer fields.
func Changes(before, after Answer) ([]Change, error) {
	if before.Record == nil || after.Record == nil {
		if before.Encontrado == after.Encontrado {
			return nil, nil
		}
		c, err := change(fieldFound, before.Encontrado, after.Encontrado)
		return []Change{c}, err
	}
	var changes []Change
	// An older answer may lack a list that is known now; that is no change.
	was, is := reflect.ValueOf(before.withLists()), reflect.ValueOf(after.withLists())
	for i := range was.NumField() {
		field := was.Type().Field(i)
		a, b := was.Field(i).Interface(), is.Field(i).Interface()
		if field.Name == fieldMinute || reflect.DeepEqual(a, b) {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		c, err := change(name, a, b)
		if err != nil {
			return nil, err
		}
		changes = append(changes, c)
	}
	return changes, nil
}

func change(name string, before, after any) (Change, error) {
	a, err := marshalPlain(before)
	if err != nil {
		return Change{}, fmt.Errorf("ruc.Changes: %s: %w", name, err)
	}
	b, err := marshalPlain(after)
	if err != nil {
		return Change{}, fmt.Errorf("ruc.Changes: %s: %w", name, err)
	}
	return Change{Campo: name, Antes: a, Despues: b}, nil
}
