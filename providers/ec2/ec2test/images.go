package ec2test

import (
	_ "embed"
	"encoding/json"
	"fmt"
)

// images.json are the images that every account sees: few, so that an account is made in no time.
//
//go:embed images.json
var images []byte

// created are the images' creation dates. moto 5.2.1 cannot read dates for more than one account, so they are put into its answers.
var created = map[string]string{}

// imagesForMoto is images.json without the dates.
func imagesForMoto() ([]byte, error) {
	var all []map[string]any
	if err := json.Unmarshal(images, &all); err != nil {
		return nil, fmt.Errorf("read images.json: %w", err)
	}
	for _, image := range all {
		created[fmt.Sprint(image["ami_id"])] = fmt.Sprint(image["creation_date"])
		delete(image, "creation_date")
	}
	return json.Marshal(all)
}

// date puts the dates, and the locations that moto lacks, into an answer to DescribeImages.
func date(body []byte) ([]byte, error) {
	n, err := parse(body)
	if err != nil {
		return nil, err
	}
	for _, image := range n.Get("imagesSet").kids() {
		if image.S("imageLocation") == "" && image.S("imageOwnerId") != "" { // moto has none for what RegisterImage has made; EC2 says this
			image.set("imageLocation", image.S("imageOwnerId")+"/"+image.S("name"))
		}
		if at := created[image.S("imageId")]; at != "" {
			image.set("creationDate", at)
		}
	}
	return []byte(n.render()), nil
}
