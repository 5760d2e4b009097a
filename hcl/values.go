package hcl

import (
	"encoding/json"
	"fmt"
	"math/big"
	"slices"

	"github.com/zclconf/go-cty/cty"
)

// toGo turns a known, unmarked value into what JSON can hold: nil, bool, float64, string, []any, map[string]any.
func toGo(v cty.Value) any {
	ty := v.Type()
	switch {
	case v.IsNull() || !v.IsKnown():
		return nil
	case ty == cty.Bool:
		return v.True()
	case ty == cty.Number:
		f, _ := v.AsBigFloat().Float64()
		return f
	case ty == cty.String:
		return v.AsString()
	case ty.IsTupleType() || ty.IsListType() || ty.IsSetType():
		list := []any{}
		for _, e := range v.AsValueSlice() {
			list = append(list, toGo(e))
		}
		return list
	case ty.IsObjectType() || ty.IsMapType():
		m := map[string]any{}
		for k, e := range v.AsValueMap() {
			m[k] = toGo(e)
		}
		return m
	}
	return nil // a capsule: no function that we offer makes one
}

// fromGo is toGo's inverse. It also takes Go's other numbers, and anything that has a string form is a string.
func fromGo(x any) cty.Value {
	switch x := x.(type) {
	case nil:
		return cty.NullVal(cty.DynamicPseudoType)
	case bool:
		return cty.BoolVal(x)
	case string:
		return cty.StringVal(x)
	case int:
		return cty.NumberIntVal(int64(x))
	case int32:
		return cty.NumberIntVal(int64(x))
	case int64:
		return cty.NumberIntVal(x)
	case uint64:
		return cty.NumberUIntVal(x)
	case float64:
		if x != x { // NaN: no such number in HCL
			return cty.NullVal(cty.Number)
		}
		return cty.NumberVal(big.NewFloat(x))
	case json.Number:
		if v, err := cty.ParseNumberVal(x.String()); err == nil {
			return v
		}
		return cty.StringVal(x.String())
	case []any:
		if len(x) == 0 {
			return cty.EmptyTupleVal
		}
		list := make([]cty.Value, len(x))
		for i, e := range x {
			list[i] = fromGo(e)
		}
		return cty.TupleVal(list)
	case []string:
		list := make([]any, len(x))
		for i, e := range x {
			list[i] = e
		}
		return fromGo(list)
	case map[string]any:
		m := make(map[string]cty.Value, len(x))
		for k, e := range x {
			m[k] = fromGo(e)
		}
		return cty.ObjectVal(m)
	case map[string]string:
		m := make(map[string]cty.Value, len(x))
		for k, e := range x {
			m[k] = cty.StringVal(e)
		}
		return cty.ObjectVal(m)
	}
	return cty.StringVal(fmt.Sprint(x))
}

// stringsTuple is a tuple of strings.
func stringsTuple(list []string) cty.Value {
	return fromGo(slices.Clone(list))
}
