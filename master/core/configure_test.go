package core

import (
	"reflect"
	"testing"
)

// TestEveryFieldOfAWorkerCounts: a field that the comparison forgets would be a change that is never carried out.
func TestEveryFieldOfAWorkerCounts(t *testing.T) {
	t.Parallel()
	var zero Worker
	for i := range reflect.TypeFor[Worker]().NumField() {
		var w Worker
		f := reflect.ValueOf(&w).Elem().Field(i)
		switch f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Int, reflect.Int64:
			f.SetInt(1)
		case reflect.Float64:
			f.SetFloat(1)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		default:
			t.Fatalf("field %d is a %s: teach the test", i, f.Kind())
		}
		if w.equal(&zero) || zero.equal(&w) {
			t.Errorf("a change of %s is not seen", reflect.TypeFor[Worker]().Field(i).Name)
		}
		if same := w; !w.equal(&same) {
			t.Errorf("field %d: a worker differs from itself", i)
		}
	}
}
