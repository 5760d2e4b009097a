package ec2test

import (
	"encoding/json"
	"net/http"
)

// Quota sets a quota of EC2 by its code, such as L-1216C47A for vCPUs of standard instances on demand. Service Quotas knows no others.
func (w *World) Quota(code string, value float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quotas[code] = value
}

// serveQuotas answers the Service Quotas service's GetServiceQuota.
func (w *World) serveQuotas(rw http.ResponseWriter, action string, body []byte) {
	var in struct{ ServiceCode, QuotaCode string }
	bad := json.Unmarshal(body, &in)
	w.mu.Lock()
	w.calls["servicequotas:"+action]++
	denied := w.denied[action]
	value, ok := w.quotas[in.QuotaCode]
	w.mu.Unlock()
	rw.Header().Set("Content-Type", "application/x-amz-json-1.1")
	refuse := func(code, text string) {
		rw.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(rw).Encode(map[string]string{"__type": code, "Message": text})
	}
	switch {
	case denied:
		refuse("AccessDeniedException", "User is not authorized to perform: servicequotas:"+action+" because no identity-based policy allows it")
	case bad != nil || action != "GetServiceQuota":
		refuse("IllegalArgumentException", "only GetServiceQuota")
	case !ok || in.ServiceCode != "ec2":
		refuse("NoSuchResourceException", "The request failed because the specified service does not exist.")
	default:
		b, _ := json.Marshal(map[string]any{"Quota": map[string]any{"ServiceCode": in.ServiceCode, "QuotaCode": in.QuotaCode, "Value": value}})
		_, _ = rw.Write(b)
	}
}
