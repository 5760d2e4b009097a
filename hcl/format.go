package hcl

import (
	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// MaxFileSize bounds one file of configuration, in bytes.
const MaxFileSize = maxFileSize

// Format returns the text in the usual layout. Text that cannot be parsed is an error and never touched, since laying it out could change what it means.
func Format(name string, src []byte) ([]byte, hcl2.Diagnostics) {
	if _, diags := parseFile(name, src); diags.HasErrors() {
		return nil, tidy(diags)
	}
	return hclwrite.Format(src), nil
}
